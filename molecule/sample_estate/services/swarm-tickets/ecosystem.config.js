'use strict';

module.exports = {
  apps: [
    {
      name: 'swarm-tickets',
      script: 'server.js',
      cwd: __dirname,
      kill_timeout: 5000,
      // Without pm2's measurements inside the process, a quarter of its start. swarm-registry has them.
      pmx: false,
    },
  ],
};
