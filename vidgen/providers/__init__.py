"""The providers behind one small protocol: one module per wire format."""
