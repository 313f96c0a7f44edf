"""A stand-in for the part of Google Cloud Storage's XML API that Walden uses, in memory, on loopback.

usage: gcs_stand_in.py PORT BUCKET

What it keeps to: https://cloud.google.com/storage/docs/xml-api. A PUT with `x-goog-if-generation-match: 0` succeeds
only if the object does not exist; listings are in the order of the names' UTF-8 bytes, in pages of at most 1,000;
a missing bucket and a missing object are both 404, with different codes.
"""

import datetime
import email.utils
import hashlib
import itertools
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000
GENERATIONS = itertools.count(int(time.time() * 1_000_000))
LOCK = threading.Lock()


class StoredObject:
    def __init__(self, data, headers):
        self.data = data
        self.headers = headers
        self.generation = str(next(GENERATIONS))
        self.created = time.time()
        self.etag = '"%s"' % hashlib.md5(data).hexdigest()

    def answer_headers(self):
        return [
            ("ETag", self.etag),
            ("Last-Modified", email.utils.formatdate(self.created, usegmt=True)),
            ("x-goog-generation", self.generation),
            ("x-goog-metageneration", "1"),
            *self.headers,
        ]


class Refusal(Exception):
    def __init__(self, status, code):
        super().__init__(code)
        self.status = status
        self.code = code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def log_message(self, *arguments):
        pass

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = urlsplit(self.path)
        bucket, _, key = target.path.lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(target.query, keep_blank_values=True).items()}
        try:
            objects = self.server.buckets.get(unquote(bucket))
            if objects is None:
                raise Refusal(404, "NoSuchBucket")
            with LOCK:
                self.dispatch(objects, unquote(key), query, body)
        except Refusal as refusal:
            xml = "<?xml version='1.0'?><Error><Code>%s</Code></Error>" % refusal.code
            self.answer(refusal.status, xml.encode(), [("Content-Type", "application/xml")])

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = handle_request

    def dispatch(self, objects, key, query, body):
        if not key and self.command == "GET":
            self.list_objects(objects, query)
        elif not key:
            raise Refusal(405, "MethodNotAllowed")
        elif self.command == "PUT":
            self.put_object(objects, key, body)
        elif self.command in ("GET", "HEAD"):
            self.get_object(objects, key)
        elif self.command == "DELETE" and "retention-held" in key:
            raise Refusal(403, "RetentionPolicyNotMet")
        elif self.command == "DELETE":
            if objects.pop(key, None) is None:
                raise Refusal(404, "NoSuchKey")
            self.answer(204)
        else:
            raise Refusal(405, "MethodNotAllowed")

    def put_object(self, objects, key, body):
        wanted = self.headers.get("x-goog-if-generation-match")
        current = objects[key].generation if key in objects else "0"
        if wanted is not None and wanted != current:
            raise Refusal(412, "PreconditionFailed")
        kept = [(n, v) for n, v in self.headers.items() if n.lower() in ("content-type", "x-goog-storage-class")]
        objects[key] = StoredObject(body, kept)
        self.answer(200, headers=objects[key].answer_headers())

    def get_object(self, objects, key):
        found = objects.get(key)
        if found is None:
            raise Refusal(404, "NoSuchKey")
        if self.headers.get("If-Match") not in (None, "*", found.etag):
            raise Refusal(412, "PreconditionFailed")
        headers, size = found.answer_headers(), len(found.data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self.answer(200, found.data, headers)
        first, last = int(asked[1]), min(int(asked[2] or size - 1), size - 1)
        if first >= size:
            raise Refusal(416, "InvalidRange")
        headers.append(("Content-Range", "bytes %d-%d/%d" % (first, last, size)))
        return self.answer(206, found.data[first:last + 1], headers)

    def list_objects(self, objects, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        page = min(int(query.get("max-keys", PAGE)), PAGE)
        found = {}  # a name, or a common prefix, to its XML; in order
        last = None
        for key in sorted((k for k in objects if k.startswith(prefix)), key=str.encode):
            rest = key[len(prefix):]
            if delimiter and delimiter in rest:
                name = prefix + rest.split(delimiter)[0] + delimiter
                xml = "<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>" % escape(name)
            else:
                name, xml = key, self.list_entry(key, objects[key])
            if name in found or name.encode() <= after.encode():
                continue
            if len(found) == page:
                break
            found[name], last = xml, name
        else:
            last = None
        token = "" if last is None else "<NextContinuationToken>%s</NextContinuationToken>" % escape(last)
        truncated = "false" if last is None else "true"
        xml = "<?xml version='1.0'?><ListBucketResult><IsTruncated>%s</IsTruncated>%s%s</ListBucketResult>"
        body = (xml % (truncated, token, "".join(found.values()))).encode()
        self.answer(200, body, [("Content-Type", "application/xml")])

    @staticmethod
    def list_entry(key, found):
        created = datetime.datetime.fromtimestamp(found.created, datetime.timezone.utc)
        stamp = created.strftime("%Y-%m-%dT%H:%M:%S.") + "%03dZ" % (created.microsecond // 1000)
        return (
            "<Contents><Key>%s</Key><LastModified>%s</LastModified><ETag>%s</ETag><Size>%d</Size></Contents>"
            % (escape(key), stamp, escape(found.etag), len(found.data))
        )

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port, bucket):
        super().__init__(("127.0.0.1", port), Handler)
        self.buckets = {bucket: {}}


if __name__ == "__main__":
    Server(int(sys.argv[1]), sys.argv[2]).serve_forever()
