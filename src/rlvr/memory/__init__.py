"""What makes a long context fit: layers that keep nothing for backward, fused adapters, 4-bit weights."""
