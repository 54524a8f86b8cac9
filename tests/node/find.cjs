// What the SDK for JavaScript finds by itself where it is run, as one line of JSON: {"keys": ..., "error": ..., "millis": ...}.
// Arguments: the name of a provider. Nothing is set but what a pod would have in its environment.
'use strict';
const providers = require('@aws-sdk/credential-providers');

const find = {
  imds: () => providers.fromInstanceMetadata(),
  http: () => providers.fromHttp(),
  container: () => providers.fromContainerMetadata(),
  chain: () => providers.fromNodeProviderChain(),
}[process.argv[2]];

const start = process.hrtime.bigint();
const say = (keys, error) => {
  const millis = Number((process.hrtime.bigint() - start) / 1000000n);
  console.log(JSON.stringify({ keys, error, millis }));
};
// A provider may fail where it is made as well as where it is asked.
Promise.resolve().then(() => find()()).then(
  (found) => say({ AccessKeyId: found.accessKeyId, SecretAccessKey: found.secretAccessKey, Token: found.sessionToken }, null),
  // What chains look at: whether the next provider is asked.
  (error) => say(null, `${error.name}${error.tryNextLink ? ', next' : ''}: ${error.message}`),
);
