"""What a calibration made of honest traffic, and what queries are compared with."""
