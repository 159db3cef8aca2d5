"""What every package may use and knows nothing of any."""
