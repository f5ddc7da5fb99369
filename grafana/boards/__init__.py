"""Makes the dashboards: ``python -m grafana.boards`` writes `grafana/dashboards/`. That JSON ships; change this."""
