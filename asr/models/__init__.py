"""Encoders, prediction networks and joiners of transducer models."""
