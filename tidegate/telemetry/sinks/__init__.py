"""One file per place telemetry can be sent to."""
