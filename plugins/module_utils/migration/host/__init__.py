"""The host of the services: files of other users, processes, pm2, settings, health."""
