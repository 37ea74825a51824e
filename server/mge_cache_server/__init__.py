"""The MGE cache sidecar. ``app`` wires it, ``store`` names what it asks of Redis."""
