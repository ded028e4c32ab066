"""Exporters: what the pools count, for Prometheus and OpenTelemetry."""
