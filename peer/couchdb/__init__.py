"""Rich queries on a CouchDB server; needs ``triopeer[couchdb]``."""

from peer.couchdb.client import CouchSettings as CouchSettings
from peer.couchdb.documents import CouchDB as CouchDB
from peer.couchdb.documents import open_couchdb as open_couchdb

__all__ = ["CouchDB", "CouchSettings", "open_couchdb"]
