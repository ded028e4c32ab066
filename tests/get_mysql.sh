#!/bin/sh
# Unpacks the MySQL server of Debian unstable into a folder: get_mysql.sh FOLDER. Nothing is installed, no file
# of apt or dpkg changes, and it takes no root, but a machine whose packages come from a Debian archive. The
# libraries come with it, so that it doesn't matter how old the machine's own are. FOLDER/mysqld runs it.
set -eu
umask 022

folder=$1
mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
chmod 755 "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages" "$work/root"
# Nothing is installed, as far as apt knows: everything that the server needs is missing.
: >"$work/status"

archives() { # archives CONDITION...: of this machine
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "$@"
}

# Until apt has lists it doesn't know whose archive it is.
archive=$(archives 'Origin: Debian' 'Label: Debian' | head -n 1)
[ -n "$archive" ] || archive=$(archives | grep '/debian/*$' | head -n 1)
[ -n "$archive" ] || {
    echo "no Debian archive is among this machine's sources of packages" >&2
    exit 1
}
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $archive sid main" >"$work/sources.list"

of_unstable() { # of_unstable COMMAND ARGUMENT...: with this folder's files in place of the machine's
    command=$1
    shift
    "$command" -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::State::lists="$work/lists" \
        -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

of_unstable apt-get update
# Perl is for scripts that administer a server.
packages=$(of_unstable apt-get --simulate --no-install-recommends install mysql-server-core |
    awk '$1 == "Inst" && $2 !~ /perl/ { print $2 }')
(cd "$work/packages" && of_unstable apt-get download $packages)
for package in "$work"/packages/*.deb; do
    dpkg --extract "$package" "$work/root"
done
rm -rf "$work/lists" "$work/cache" "$work/packages" "$work/status" "$work/sources.list"
library=$(dirname "$(ls "$work"/root/usr/lib/*/libc.so.6)")
loader=$(ls "$library"/ld-linux*.so.*)
cat >"$work/mysqld" <<END
#!/bin/sh
# exec keeps the process id.
root='$folder/root'
exec "\$root${loader#"$work/root"}" --library-path "\$root${library#"$work/root"}:\$root/usr/lib/mysql/private" \\
    "\$root/usr/sbin/mysqld" --no-defaults --basedir="\$root/usr" \\
    --lc-messages-dir="\$root/usr/share/mysql" --character-sets-dir="\$root/usr/share/mysql/charsets" \\
    --plugin-dir="\$root/usr/lib/mysql/plugin" "\$@"
END
chmod 755 "$work/mysqld"
rm -rf "$folder"
mv -T "$work" "$folder"
"$folder/mysqld" --version
