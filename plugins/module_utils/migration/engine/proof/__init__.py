"""The proof: both sides in one canonical form, hashed, summed up and compared."""
