"""What a command needs that runs as a job on a cluster: what is sent there, and the request."""
