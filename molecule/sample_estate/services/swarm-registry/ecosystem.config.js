'use strict';

module.exports = {
  apps: [
    {
      name: 'swarm-registry',
      script: 'server.js',
      cwd: __dirname,
      kill_timeout: 5000,
    },
  ],
};
