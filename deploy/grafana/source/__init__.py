"""Makes the dashboards in deploy/grafana/dashboards; ``make dashboards`` runs it."""
