module.exports = { apps: [{ name: 'orders', script: 'server.js', cwd: __dirname }] };
