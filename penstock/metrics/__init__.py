"""What is seen from outside: the metrics of a namespace, for Prometheus."""
