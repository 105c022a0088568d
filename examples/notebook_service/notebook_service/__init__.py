"""A web service that runs the cells of its users' notebooks: each notebook in use has a session."""
