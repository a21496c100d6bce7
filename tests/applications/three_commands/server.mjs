// Accounts over HTTP: Better Auth, as its own pages show it for Node. On PostgreSQL if DATABASE_URL says so.
import 'dotenv/config'
import { createServer } from 'node:http'
import { LibsqlDialect } from '@libsql/kysely-libsql'
import { betterAuth } from 'better-auth'
import { getMigrations } from 'better-auth/db/migration'
import { toNodeHandler } from 'better-auth/node'
import { admin, organization, username } from 'better-auth/plugins'
import pg from 'pg'

const url = process.env.DATABASE_URL
const options = {
  secret: process.env.BETTER_AUTH_SECRET,
  baseURL: 'http://127.0.0.1:4020',
  telemetry: { enabled: false },
  emailAndPassword: { enabled: true },
  plugins: [admin(), organization(), username()],
  rateLimit: { enabled: false },
  database: url
    ? new pg.Pool({ connectionString: url, max: Number(process.env.DATABASE_POOL_SIZE ?? 5) })
    : { dialect: new LibsqlDialect({ url: `file:${process.env.ACCOUNTS_FILE}` }), type: 'sqlite' },
}
if (!url) await (await getMigrations(options)).runMigrations()
const auth = betterAuth(options)
const answer = toNodeHandler(auth)
createServer(async (request, response) => {
  if (request.url !== '/health') return answer(request, response)
  const context = await auth.$context
  const users = await context.adapter.count({ model: 'user' }).catch(() => null)
  response.writeHead(users === null ? 503 : 200).end(JSON.stringify({ users }))
}).listen(4020, '127.0.0.1')
