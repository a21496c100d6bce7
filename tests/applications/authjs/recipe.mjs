// Auth.js with its adapter for TypeORM: users, linked accounts, sessions and tokens.
import { TypeORMAdapter, entities } from '@auth/typeorm-adapter'
import typeorm from 'typeorm'

const [step, url] = process.argv.slice(2)
process.env.NODE_ENV = 'production'
const source = {
  entities: Object.values(entities),
  synchronize: step === 'schema',
  ...(url.startsWith('postgresql:')
    ? { type: 'postgres', url, uuidExtension: 'pgcrypto', installExtensions: false } // gen_random_uuid() is built in
    : { type: 'sqljs', location: url.replace('sqlite://', ''), autoSave: true }),
}
const adapter = TypeORMAdapter(source)

async function rows() {
  for (let number = 0; number < 20; number++) {
    const user = await adapter.createUser({
      name: ['Zoë 🦆', "O'Brien", null, '"quoted" \\N'][number % 4], email: `u${number}@example.org`,
      emailVerified: number % 3 ? new Date(Date.UTC(1969 + number, 1, 28, 23, 59, 59, number)) : null, image: '',
    })
    await adapter.linkAccount({ userId: user.id, type: 'oauth', provider: 'p', providerAccountId: `00${number}`,
      refresh_token: 'tab\tnew\nline', access_token: 'x'.repeat(2000), expires_at: 2 ** 33 + number, scope: 'a b' })
    await adapter.createSession({
      sessionToken: `s${number}`, userId: user.id, expires: new Date(Date.UTC(2031, 6, number)) })
    await adapter.createVerificationToken({ identifier: `u${number}`, token: `t${number}`, expires: new Date(number) })
  }
}

async function change() {
  const user = await adapter.getUserByEmail('u3@example.org')
  await adapter.updateUser({ ...user, name: 'nach dem Umzug ☂', emailVerified: new Date(0) })
  await adapter.deleteUser((await adapter.getUserByEmail('u4@example.org')).id)
  await adapter.useVerificationToken({ identifier: 'u5', token: 't5' })
  const added = await adapter.createUser({ name: null, email: 'new@example.org', emailVerified: null })
  await adapter.linkAccount({
    userId: added.id, type: 'oauth', provider: 'q', providerAccountId: '1', expires_at: null })
}

async function read() {
  const found = {}
  const database = await new typeorm.DataSource(source).initialize()
  for (const entity of Object.values(entities)) {
    found[entity.name] = await database.getRepository(entity).find({ order: { id: 'ASC' } })
  }
  await new Promise((written) => process.stdout.write(JSON.stringify(found), written))
}

if (step === 'schema') await new typeorm.DataSource(source).initialize()
else await { rows, change, read }[step]()
process.exit(0)
