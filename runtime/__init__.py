"""Running, tracing and verifying compiled builds."""
