"""Many processes on one host: each reports on its pools in a file and reads commands from others."""
