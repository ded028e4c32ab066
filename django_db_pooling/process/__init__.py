"""What is true of this process and of no database: gevent or not, forks, deadlines, what runs each second."""
