"""Apps that tests run with the command line. Server and namespace come from the environment."""
