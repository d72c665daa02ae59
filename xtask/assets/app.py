"""The web application of the manual: says hello, and shows what its database has.

It finds the database twice: by the address in its environment, and by the alias
of the link, as a name. Without a link it says hello only.
"""

import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2

SUFFIX = "_PORT_5432_TCP_ADDR"


def databases():
    """Each way to the database: what it is called, and the host to connect to."""
    for variable in sorted(os.environ):
        if variable.endswith(SUFFIX):
            yield variable, os.environ[variable]
            yield "name", variable.removesuffix(SUFFIX).lower()


def visits(host):
    """The newest rows of the table of visits."""
    connection = psycopg2.connect(
        host=host, user="docker", password="docker", dbname="docker", connect_timeout=5
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('visits') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return []
        cursor.execute("SELECT id, who FROM visits ORDER BY id DESC LIMIT 10")
        return cursor.fetchall()


class Page(BaseHTTPRequestHandler):
    """One page: a greeting, then what each way to the database gives."""

    def do_GET(self):
        status, lines = 200, [f"Hello {os.environ.get('PROVIDER', 'world')}!"]
        for way, host in databases():
            try:
                lines += [f"{way} {host}: visit {row[0]} by {row[1]}" for row in visits(host)]
            except psycopg2.Error as error:
                status = 503
                lines.append(f"{way} {host}: {str(error).strip()}")
        body = ("\n".join(lines) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *arguments):
        client = self.client_address[0].removeprefix("::ffff:")
        print(client, format % arguments, flush=True)


class Server(ThreadingHTTPServer):
    """Listens for both versions of IP."""

    address_family = socket.AF_INET6

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main():
    port = int(os.environ.get("PORT", "5000"))
    print(f"listening on port {port}", flush=True)
    Server(("::", port), Page).serve_forever()


if __name__ == "__main__":
    sys.exit(main())
