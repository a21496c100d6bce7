'use strict';

module.exports = {
  apps: [
    {
      name: 'swarm-tickets',
      script: 'server.js',
      cwd: __dirname,
      kill_timeout: 5000,
    },
  ],
};
