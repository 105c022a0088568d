"""A load test of the service: many users, several workers, one `greenroom serve`, and a worker that is killed."""
