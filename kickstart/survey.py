"""Tells what is on a mounted image, as JSON lines, and judges nothing.

    survey.py ROOT RUN WANTS

WANTS is a JSON file with three lists of patterns (fnmatch: `*` goes over
slashes too): `contents`, files whose text is told; `digests`, files whose
SHA-256 is told; `labels`, paths whose label in the image's own SELinux policy
is told. Bytes of names are told as the characters of the same numbers.

It runs in the installer's second stage, which has Python because Anaconda is
written in it, and little else. What cannot be read is told as an error.
"""

import base64
import fnmatch
import hashlib
import json
import os
import re
import stat
import subprocess
import sys

FORMAT = 1
# Longer files are not text anybody judges.
LONGEST = 1 << 20
# Where a private key has no business, and how large a file with one is.
KEY_PLACES = (b"/etc/", b"/root/", b"/home/", b"/srv/", b"/var/")
KEY_LONGEST = 64 << 10
KEY_MARK = b"PRIVATE KEY-----"
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
# Asked about at a time.
BATCH = 200

told = 0


def tell(kind, **fact):
    global told
    told += 1
    sys.stdout.write(json.dumps({"kind": kind, **fact}, separators=(",", ":")) + "\n")


def name(raw):
    return raw.decode("latin-1")


def any_of(patterns):
    return re.compile("|".join(f"(?:{fnmatch.translate(p)})" for p in patterns) or r"(?!)").match


def label_of(path):
    try:
        return name(os.getxattr(path, "security.selinux", follow_symlinks=False))
    except OSError as error:
        # No such attribute, or a file system that has none.
        if error.errno in (61, 95):
            return None
        raise


def entry(root, path, wants):
    """Tell of one path; its bytes begin with a slash inside the root."""
    full = root + path
    status = os.lstat(full)
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    fact = {"mode": stat.S_IMODE(status.st_mode), "uid": status.st_uid, "gid": status.st_gid, "size": status.st_size}
    label = label_of(full)
    if label is not None:
        fact["label"] = label
    if kind == "link":
        fact["target"] = name(os.readlink(full))
    if kind == "file":
        text = name(path)
        if wants["digests"](text):
            digest = hashlib.sha256()
            with open(full, "rb") as file:
                for piece in iter(lambda: file.read(1 << 20), b""):
                    digest.update(piece)
            fact["sha256"] = digest.hexdigest()
        if wants["contents"](text) and status.st_size <= LONGEST:
            with open(full, "rb") as file:
                fact["content"] = base64.b64encode(file.read()).decode()
        if status.st_size <= KEY_LONGEST and path.startswith(KEY_PLACES):
            with open(full, "rb") as file:
                if KEY_MARK in file.read():
                    fact["private_key"] = True
    tell("entry", path=name(path), type=kind, **fact)
    return kind


def walk(root, wants):
    """Tell of everything below the root; return the paths whose label is asked for."""
    labelled = []
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        for found in sorted(os.listdir(root + folder or b"/")):
            path = folder + b"/" + found
            try:
                kind = entry(root, path, wants)
            except OSError as error:
                tell("error", what=f"{name(path)}: {error.strerror}")
                continue
            if kind == "dir":
                waiting.append(path)
            if wants["labels"](name(path)):
                labelled.append(path)
    return labelled


def in_root(root, *words):
    done = subprocess.run(["chroot", root, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(0, f"{words[0]} ended with {done.returncode}: {reason[-1] if reason else 'no word'}")
    return done.stdout


def policy(root, paths):
    """What the image's policy has for these paths."""
    for start in range(0, len(paths), BATCH):
        some = paths[start : start + BATCH]
        answers = in_root(root, "matchpathcon", "-n", *some).decode("latin-1").splitlines()
        if len(answers) != len(some):
            raise OSError(0, f"matchpathcon was asked about {len(some)} paths and answered for {len(answers)}")
        for path, wanted in zip(some, answers):
            tell("label", path=name(path), wanted=wanted.strip())


def packages(root):
    # rpm's database opens only where it may write its journal. The disk is an
    # overlay, and everything that counts was read before.
    subprocess.run(["mount", "-o", "remount,rw", root], check=True)
    listed = in_root(root, "rpm", "-qa", "--qf", "%{NAME}\\t%{EVR}\\t%{ARCH}\\n")
    for line in sorted(listed.decode(errors="replace").splitlines()):
        package, evr, arch = line.split("\t")
        tell("package", name=package, evr=evr, arch=arch)


def main():
    root, run = os.fsencode(sys.argv[1]), sys.argv[2]
    with open(sys.argv[3], encoding="utf-8") as file:
        wants = {kind: any_of(patterns) for kind, patterns in json.load(file).items()}
    tell("begin", format=FORMAT, run=run)
    labelled = walk(root, wants)
    for what, ask in (("the policy's labels", lambda: policy(root, labelled)), ("packages", lambda: packages(root))):
        try:
            ask()
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            tell("error", what=f"{what}: {getattr(error, 'strerror', None) or error}")
    tell("end", run=run, told=told)
    sys.stdout.flush()


main()
