"""The transducer loss, exact and fused with the joiner, and an independent reference."""
