'use strict';

module.exports = {
  apps: [
    {
      name: 'swarm-deploy',
      script: 'server.mjs',
      cwd: __dirname,
      kill_timeout: 5000,
    },
  ],
};
