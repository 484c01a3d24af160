#!/usr/bin/env python3
"""overlay.py DIR: unpacks the layer stacks of DIR (N/0.tar, N/1.tar, ... bottom first) as containerd's applier unpacks
layers for the kernel's overlayfs, mounts each stack, and prints what it shows, one JSON line a stack.

To be run as root in a mount namespace of its own (unshare -m). Where containerd depends on the order of a tar and the
image specification does not, the specification is followed: whiteouts go first, and a directory in the place of one is
opaque, as the kernel makes it. A hard link to a file of a lower layer, which containerd's applier for overlayfs refuses
and its plain one makes, is made through a mounted overlay. A link's own attributes are ignored, as tar and umoci do.
"""
import ctypes, decimal, errno, hashlib, json, os, shutil, stat, sys, tarfile

libc = ctypes.CDLL(None, use_errno=True)
WHITEOUT, META, OPAQUE = b'.wh.', b'.wh..wh.', b'.wh..wh..opq'


def mount(source, target, kind, flags, data):
    if libc.mount(source, target, kind, flags, data):
        raise OSError(ctypes.get_errno(), 'mount ' + repr(data))


def umount(target):
    if libc.umount2(target, 2):  # MNT_DETACH
        raise OSError(ctypes.get_errno(), 'umount ' + repr(target))


def esc(b):
    return b.decode('utf-8', 'surrogateescape').encode('utf-8', 'backslashreplace').decode()


def lstat(path):
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_whiteout(s):
    return s is not None and stat.S_ISCHR(s.st_mode) and s.st_rdev == 0


def is_whiteout_name(path):
    name = os.path.basename(path)
    return name == OPAQUE or (name.startswith(WHITEOUT) and not name.startswith(META))


def is_opaque(path):
    return b'trusted.overlay.opaque' in map(os.fsencode, os.listxattr(path, follow_symlinks=False))


def set_opaque(path):
    os.setxattr(path, b'trusted.overlay.opaque', b'y', follow_symlinks=False)


def ignore_missing(function, path, info):
    """overlayfs lists whiteouts of directories that only one layer has, but does not find them."""
    if info[0] is not FileNotFoundError:
        raise info[1]


def remove(path):
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path, onerror=ignore_missing)
    else:
        os.unlink(path)


def clear_xattrs(path):
    for name in os.listxattr(path, follow_symlinks=False):
        if not name.startswith('trusted.overlay.'):
            os.removexattr(path, name, follow_symlinks=False)


def copy_attributes(source, target):
    s = os.lstat(source)
    os.chown(target, s.st_uid, s.st_gid)
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.chmod(target, stat.S_IMODE(s.st_mode))
    return s.st_mtime_ns


class Layer:
    def __init__(self, base, number, tar):
        self.base, self.lowers = base, [base + b'/%d' % i for i in reversed(range(number))]
        self.root, self.view, self.tar = base + b'/%d' % number, base + b'/view', tar
        self.times, self.explicit, self.whited = {}, set(), set()

    def apply(self):
        os.mkdir(self.root, 0o755)
        self.mount_lowers(self.view)
        self.times[b''] = copy_attributes(self.view, self.root) if self.lowers else 0
        with tarfile.open(self.tar, errors='surrogateescape', encoding='utf-8') as t:
            entries = [(os.fsencode(m.name).strip(b'/') if m.name not in ('.', './') else b'', m) for m in t]
            paths = [path for path, m in entries if is_whiteout_name(path)]
            for path in sorted(paths, key=lambda p: (p.count(b'/'), os.path.basename(p) != OPAQUE)):
                self.whiteout(path)
            for path, m in entries:
                if is_whiteout_name(path):
                    continue
                if os.path.basename(path).startswith(META):
                    self.make_parents(path)
                else:
                    self.entry(path, m, t)
        for path in sorted(self.times, key=len, reverse=True):
            where = os.path.join(self.root, path)
            if lstat(where) is not None:
                os.utime(where, ns=(0, self.times[path]))
        umount(self.view)

    def mount_lowers(self, target):
        data = b'lowerdir=' + b':'.join(self.lowers + [self.base + b'/empty', self.base + b'/empty2'])
        mount(b'overlay', target, b'overlay', 1, data)

    def resolve(self, path):
        """The path of a directory below the layer's root, symlinks of this layer followed within the root."""
        done, ahead = [], path.split(b'/') if path else []
        while ahead:
            name = ahead.pop(0)
            if name == b'..':
                done = done[:-1]
            elif name not in (b'', b'.'):
                where = os.path.join(self.root, *done, name)
                s = lstat(where)
                if s is not None and stat.S_ISLNK(s.st_mode):
                    target = os.readlink(where)
                    if target.startswith(b'/'):
                        done = []
                    ahead = target.split(b'/') + ahead
                else:
                    done.append(name)
        return b'/'.join(done)

    def is_lower_dir(self, path):
        """Whether the layers below show a directory at a path; symlinks on the way are none."""
        parts = path.split(b'/')
        ways = (lstat(os.path.join(self.view, *parts[:i])) for i in range(1, len(parts) + 1))
        return all(s is not None and stat.S_ISDIR(s.st_mode) for s in ways)

    def hidden(self, path):
        """Whether this layer hides what the lower ones have in the directories of a path."""
        parts = path.split(b'/')[:-1]
        return any(is_opaque(os.path.join(self.root, *parts[:i])) for i in range(1, len(parts) + 1))

    def mkdir(self, path):
        where = os.path.join(self.root, path)
        s = lstat(where)
        white = is_whiteout(s) or path in self.whited
        if s is not None:
            remove(where)
        os.mkdir(where, 0o755)
        os.chown(where, 0, 0)  # not what a setgid directory hands down
        os.chmod(where, 0o755)
        if white:
            set_opaque(where)
        return white

    def make_parents(self, path):
        parent = os.path.dirname(path)
        if not parent:
            return
        s = lstat(os.path.join(self.root, parent))
        if s is not None and not is_whiteout(s):
            assert stat.S_ISDIR(s.st_mode), parent
            return
        self.make_parents(parent)
        white = self.mkdir(parent)
        self.times[parent] = 0
        lower = os.path.join(self.view, parent)
        if not white and self.is_lower_dir(parent) and not self.hidden(parent):
            self.times[parent] = copy_attributes(lower, os.path.join(self.root, parent))

    def whiteout(self, path):
        self.make_parents(path)
        parent, name = os.path.split(path)
        if name == OPAQUE:
            set_opaque(os.path.join(self.root, parent))
        else:
            hidden = os.path.join(parent, name[len(WHITEOUT):])
            self.whited.add(hidden)
            s = lstat(os.path.join(self.root, hidden))
            if s is None:
                os.mknod(os.path.join(self.root, hidden), stat.S_IFCHR, 0)
            elif stat.S_ISDIR(s.st_mode):
                set_opaque(os.path.join(self.root, hidden))

    def forget(self, path):
        inside = path + b'/'
        self.whited = {p for p in self.whited if not p.startswith(inside)}
        self.explicit = {p for p in self.explicit if p != path and not p.startswith(inside)}
        self.times = {p: t for p, t in self.times.items() if p != path and not p.startswith(inside)}

    def entry(self, path, m, t):
        parent, name = os.path.split(path)
        path = os.path.join(self.resolve(parent), name)
        where = os.path.join(self.root, path) if path else self.root
        self.make_parents(path)
        s = lstat(where)
        if m.isdir():
            if s is None or not stat.S_ISDIR(s.st_mode):
                self.forget(path)
                self.mkdir(path)
            elif path not in self.explicit:
                clear_xattrs(where)
            self.explicit.add(path)
        elif s is not None:
            self.forget(path)
            remove(where)
        if m.islnk():
            return self.link(os.fsencode(m.linkname), path)
        if m.isreg():
            with open(where, 'xb') as f:
                shutil.copyfileobj(t.extractfile(m), f)
        elif m.issym():
            os.symlink(os.fsencode(m.linkname), where)
        elif not m.isdir():
            kind = stat.S_IFIFO if m.isfifo() else stat.S_IFCHR if m.ischr() else stat.S_IFBLK
            os.mknod(where, kind | 0o600, os.makedev(m.devmajor, m.devminor))
        self.attributes(path, where, m)

    def attributes(self, path, where, m):
        os.lchown(where, m.uid, m.gid)
        for key, value in m.pax_headers.items():
            if key.startswith('SCHILY.xattr.') and not key.startswith('SCHILY.xattr.trusted.overlay.'):
                try:
                    name = os.fsencode(key[len('SCHILY.xattr.'):])
                    os.setxattr(where, name, value.encode('utf-8', 'surrogateescape'), follow_symlinks=False)
                except PermissionError:
                    assert name.startswith(b'user.') and not (m.isreg() or m.isdir())
        if not m.issym():
            os.chmod(where, m.mode)
        time = decimal.Decimal(m.pax_headers.get('mtime', m.mtime))
        nanoseconds = int((time * 10 ** 9).to_integral_value(decimal.ROUND_FLOOR))
        os.utime(where, ns=(nanoseconds, nanoseconds), follow_symlinks=False)
        if m.isdir():
            self.times[path] = nanoseconds

    def link(self, target, path):
        parent, name = os.path.split(target)
        own = os.path.join(self.root, self.resolve(parent), name)
        s = lstat(own)
        if s is not None and not is_whiteout(s):
            return os.link(own, os.path.join(self.root, path), follow_symlinks=False)
        top, work = self.base + b'/top', self.base + b'/work'
        os.makedirs(work, exist_ok=True)
        data = b'lowerdir=%s,upperdir=%s,workdir=%s' % (b':'.join(self.lowers), self.root, work)
        mount(b'overlay', top, b'overlay', 0, data)
        try:
            where = os.path.join(top, path)
            if lstat(where) is not None:
                remove(where)
            os.link(os.path.join(top, target), where, follow_symlinks=False)
        finally:
            umount(top)
        while b'/' in target:  # copied up with the file
            target = os.path.dirname(target)
            self.times.setdefault(target, os.lstat(os.path.join(self.view, target)).st_mtime_ns)


def walk(root):
    names, out = {}, []

    def one(path, rel):
        s = os.lstat(path)
        m = s.st_mode
        e = {'path': esc(rel) or '/', 'mode': '%04o' % stat.S_IMODE(m), 'uid': s.st_uid, 'gid': s.st_gid}
        e['mtime'] = str(s.st_mtime_ns)
        e['type'] = {stat.S_IFDIR: 'dir', stat.S_IFREG: 'file', stat.S_IFLNK: 'symlink', stat.S_IFCHR: 'char',
                     stat.S_IFBLK: 'block', stat.S_IFIFO: 'fifo', stat.S_IFSOCK: 'socket'}[stat.S_IFMT(m)]
        if e['type'] == 'file':
            with open(path, 'rb') as f:
                e['size'], e['sha256'] = s.st_size, hashlib.sha256(f.read()).hexdigest()
        if e['type'] == 'symlink':
            e['target'] = esc(os.readlink(path))
        if e['type'] in ('char', 'block'):
            e['rdev'] = [os.major(s.st_rdev), os.minor(s.st_rdev)]
        x = {esc(os.fsencode(k)): os.getxattr(path, k, follow_symlinks=False).hex()
             for k in os.listxattr(path, follow_symlinks=False)}
        if x:
            e['xattrs'] = x
        out.append(e)
        if e['type'] == 'dir':
            for n in sorted(os.listdir(path)):
                if lstat(path + b'/' + n) is not None:  # see ignore_missing
                    one(path + b'/' + n, rel + b'/' + n)
        else:
            names.setdefault((s.st_dev, s.st_ino), []).append(e)

    one(root, b'')
    for group in names.values():
        for e in group:
            e['nlink'], e['first'] = len(group), group[0]['path']
    return out


def show(base, tars):
    for name in (b'empty', b'empty2', b'view', b'top'):
        os.mkdir(base + b'/' + name)
    for number, tar in enumerate(tars):
        Layer(base, number, tar).apply()
    layers = [base + b'/%d' % i for i in reversed(range(len(tars)))]
    mount(b'overlay', base + b'/view', b'overlay', 1, b'lowerdir=' + b':'.join(layers + [base + b'/empty']))
    try:
        return walk(base + b'/view')
    finally:
        umount(base + b'/view')


def main():
    sys.setrecursionlimit(5000)
    os.umask(0)
    directory = os.fsencode(os.path.abspath(sys.argv[1]))
    work = directory + b'/w'
    os.mkdir(work)
    mount(b'tmpfs', work, b'tmpfs', 0, b'size=256m,mode=755')
    try:
        for name in sorted((n for n in os.listdir(directory) if n.isdigit()), key=int):
            base = work + b'/' + name
            os.mkdir(base)
            tars = sorted(os.listdir(directory + b'/' + name), key=lambda n: int(n.split(b'.')[0]))
            try:
                shown = show(base, [directory + b'/' + name + b'/' + tar for tar in tars])
            except Exception as error:
                raise RuntimeError('stack ' + name.decode()) from error
            print(json.dumps({'stack': int(name), 'entries': shown}))
            shutil.rmtree(base)
    finally:
        umount(work)


main()
