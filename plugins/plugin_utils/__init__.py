"""What the plugins share that runs on the controller and needs Ansible itself."""
