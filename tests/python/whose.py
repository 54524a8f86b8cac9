"""Whose keys are: each line of input is a document with keys, each line of output what STS says of them.

The ARN, or null if STS refuses them. One signed GetCallerIdentity for each, by botocore, over kept connections.
"""
import json
import re
import sys

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.httpsession import URLLib3Session

url = sys.argv[1]
session = URLLib3Session()
for line in sys.stdin:
    keys = json.loads(line)
    request = AWSRequest("POST", url, data="Action=GetCallerIdentity&Version=2011-06-15")
    request.headers["Content-Type"] = "application/x-www-form-urlencoded; charset=utf-8"
    credentials = Credentials(keys["AccessKeyId"], keys["SecretAccessKey"], keys["Token"])
    SigV4Auth(credentials, "sts", "eu-west-1").add_auth(request)
    answer = session.send(request.prepare())
    arn = re.search("<Arn>([^<]*)</Arn>", answer.text)
    print(json.dumps(arn.group(1) if answer.status_code == 200 and arn else None), flush=True)
