"""Speed against the rivals, on identical inputs after asserting equal values."""
