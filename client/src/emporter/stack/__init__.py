"""NATS, an S3 server and the four services as processes of this machine, kept up by one supervisor."""
