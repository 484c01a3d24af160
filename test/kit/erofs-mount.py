#!/usr/bin/env python3
"""erofs-mount.py IMAGE DIR [DEVICE...]: mounts a file with the kernel's EROFS by mount(2); mount(8) would make loop devices."""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
MS_RDONLY = 1
image, directory, devices = sys.argv[1], sys.argv[2], sys.argv[3:]
options = ','.join('device=' + device for device in devices)
if libc.mount(os.fsencode(image), os.fsencode(directory), b'erofs', MS_RDONLY, os.fsencode(options)) != 0:
    code = ctypes.get_errno()
    sys.exit(f'mount {image}: {os.strerror(code)}')
