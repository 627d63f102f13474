"""What is measured: a server, its processes, what it is sent."""
