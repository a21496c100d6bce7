"""What is wrong with an inventory, found on the controller before any host is touched."""
