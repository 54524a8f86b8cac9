"""What boto3 finds by itself where it is run, as one line of JSON: {"keys": ..., "error": ..., "millis": ...}.

Nothing is set but what a pod would have in its environment.
"""
import json
import time

import boto3

session = boto3.Session(region_name="eu-west-1")
start = time.monotonic()
keys = error = None
try:
    found = session.get_credentials()
    if found is not None:
        found = found.get_frozen_credentials()
        keys = {"AccessKeyId": found.access_key, "SecretAccessKey": found.secret_key, "Token": found.token}
except Exception as raised:
    error = f"{type(raised).__name__}: {raised}"
print(json.dumps({"keys": keys, "error": error, "millis": int((time.monotonic() - start) * 1000)}))
