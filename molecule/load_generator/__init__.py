"""Writes to the sample services all the time, and checks that what they acknowledged is in the store in use."""
