'use strict';

module.exports = {
  apps: [
    {
      name: 'swarm-platform',
      script: 'server.js',
      cwd: __dirname,
      kill_timeout: 5000,
    },
  ],
};
