"""A web service that runs its users' code in sandboxes: each user has a session, which all workers share."""
