"""One host, many processes: what they tell each other, in files."""
