"""From measurements to a profile's coefficients."""
