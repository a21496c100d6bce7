// Better Auth over kysely: users with passwords, sessions, organizations with members, invitations, keys, two factors.
import { LibsqlDialect } from '@libsql/kysely-libsql'
import { betterAuth } from 'better-auth'
import { getMigrations } from 'better-auth/db/migration'
import { admin, deviceAuthorization, jwt, organization, twoFactor, username } from 'better-auth/plugins'
import pg from 'pg'

const [step, url] = process.argv.slice(2)
const options = {
  secret: 'a secret of a test, long enough for anybody',
  baseURL: 'http://localhost:3000',
  telemetry: { enabled: false },
  logger: { level: 'error' },
  emailAndPassword: { enabled: true },
  user: { additionalFields: {
    credit: { type: 'number', required: false },
    seen: { type: 'date', required: false },
    tags: { type: 'string[]', required: false },
    settings: { type: 'json', required: false },
  } },
  plugins: [
    admin(), deviceAuthorization({ verificationUri: '/device' }), jwt(), organization({ teams: { enabled: true } }),
    twoFactor(), username(),
  ],
  database: url.startsWith('postgresql:')
    ? new pg.Pool({ connectionString: url })
    : { dialect: new LibsqlDialect({ url: url.replace('sqlite:///', 'file:') }), type: 'sqlite' },
}
const auth = betterAuth(options)
const context = await auth.$context

async function signUp(number, name) {
  const { headers, response } = await auth.api.signUpEmail({ returnHeaders: true, body: {
    name, email: `u${number}@example.org`, password: 'pässword of 🦆', username: `user_${number}`,
  } })
  const cookie = headers.getSetCookie().map((line) => line.split(';')[0]).join('; ')
  return { user: response.user, headers: new Headers({ cookie }) }
}

const setUser = (id, update) => context.adapter.update({ model: 'user', where: [{ field: 'id', value: id }], update })

async function rows() {
  const people = []
  for (let number = 0; number < 12; number++) {
    const person = await signUp(number, ['Zoë 🦆', "O'Brien", '', '"quoted" \\N\ttab'][number % 4])
    await setUser(person.user.id, {
      credit: [0, -1, null, 2 ** 31 - 1][number % 4], banned: number % 3 ? number % 2 === 0 : null,
      seen: number % 3 ? new Date(Date.UTC(1969 + number, 1, 28, 23, 59, 59, number)) : null,
      tags: number % 2 ? ['a', '', 'ü'] : null, settings: number % 3 ? { b: 1, a: [null, 1.5, { ü: '🦆' }] } : null,
      banExpires: number % 2 ? new Date(Date.UTC(2031, 6, number + 1)) : null,
    })
    people.push(person)
  }
  for (let number = 0; number < 3; number++) {
    const { headers } = people[number]
    const { id } = await auth.api.createOrganization({ headers, body: {
      name: `Größe ${number}`, slug: `o-${number}`, metadata: { n: number / 7, text: "it's" } } })
    await auth.api.addMember({ body: {
      userId: people[number + 4].user.id, organizationId: id, role: ['admin', 'member'] } })
    await auth.api.createTeam({ headers, body: { name: 'Team ☂', organizationId: id } })
    await context.adapter.create({ model: 'invitation', data: {
      organizationId: id, email: 'x@example.org', role: 'member', status: 'pending', createdAt: new Date(),
      expiresAt: new Date(Date.UTC(2031, 0, 1, 0, 0, 0, number)), inviterId: people[number].user.id } })
    await auth.api.enableTwoFactor({ headers, body: { password: 'pässword of 🦆' } })
    await auth.api.deviceCode({ body: { client_id: `client ${number}`, scope: 'a b' } })
  }
  await auth.api.getJwks() // makes a key pair
}

async function change() {
  const users = await context.adapter.findMany({ model: 'user', sortBy: { field: 'email', direction: 'asc' } })
  await setUser(users[3].id, {
    name: 'nach dem Umzug ☂', credit: null, seen: new Date(0), tags: [], settings: { late: [true] }, banned: true })
  await context.internalAdapter.deleteUser(users[5].id)
  const { headers } = await signUp(99, 'New')
  await auth.api.createOrganization({ headers, body: { name: 'new', slug: 'new' } })
  await auth.api.signInEmail({ body: { email: users[7].email, password: 'pässword of 🦆' } })
}

async function read() {
  const found = {}
  for (const model of Object.keys(context.tables)) {
    found[model] = (await context.adapter.findMany({ model, limit: 1000 })).sort((a, b) => (a.id < b.id ? -1 : 1))
  }
  await new Promise((written) => process.stdout.write(JSON.stringify(found), written))
}

if (step === 'schema') await (await getMigrations(options)).runMigrations()
else await { rows, change, read }[step]()
process.exit(0)
