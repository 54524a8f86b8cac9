"""Web-identity tokens that moto's STS was given, held against the API server's own keys.

Argument: the recorder's address. Input: the API server's JWKS. Output: a JSON list with what each accepted call carried: action, role, session and the token's
claims; null for the claims of a token that these keys did not sign.
"""
import base64
import json
import sys
import urllib.parse
import urllib.request

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

keys = KeySet.import_key_set(json.load(sys.stdin))
with urllib.request.urlopen(sys.argv[1] + "moto-api/recorder/download-recording") as answer:
    lines = answer.read().decode().splitlines()
calls = []
for line in filter(None, lines):
    call = json.loads(line)
    body = call.get("body") or ""
    if call.get("body_encoded"):
        body = base64.b64decode(body).decode()
    form = dict(urllib.parse.parse_qsl(body))
    if "WebIdentityToken" not in form:
        continue
    try:
        # Only what AWS takes: no symmetric key, no token without a signature.
        claims = jwt.decode(form["WebIdentityToken"], keys, algorithms=["RS256", "ES256"]).claims
    except (JoseError, ValueError):
        claims = None
    calls.append({"action": form["Action"], "role": form["RoleArn"], "session": form["RoleSessionName"], "claims": claims})
print(json.dumps(calls))
