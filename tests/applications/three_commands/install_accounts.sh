# Better Auth (npm) over HTTP, run by pm2 of a user of its own, with users and organizations made through its pages.
useradd --create-home accounts
chown -R accounts:accounts /srv/accounts
cd /srv/accounts
as_accounts='runuser -u accounts -- env HOME=/home/accounts PATH=/usr/local/bin:/usr/bin:/bin'
$as_accounts npm ci --no-audit --no-fund --loglevel=error
(umask 077; printf 'ACCOUNTS_FILE=/srv/accounts/accounts.db\nBETTER_AUTH_SECRET=a secret of a test, long enough for anybody\n' > .env)
cat > ecosystem.config.cjs <<'CONFIG'
// Node 18 has the global crypto only behind an option.
const node_args = '--experimental-global-webcrypto'
module.exports = { apps: [{ name: 'accounts', script: 'server.mjs', cwd: '/srv/accounts', node_args }] }
CONFIG
chown accounts:accounts .env ecosystem.config.cjs
# A busy pm2 fails now and then without a word.
for try in 1 2 3 4; do
  $as_accounts pm2 -s start ecosystem.config.cjs && break
  sleep 2
done
