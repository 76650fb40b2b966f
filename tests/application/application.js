/*
 * A client application as people write them for any Fabric network.
 *
 * Its one argument is a file with the connection, as JSON: endpoint, tlsRoot, mspId, certificate, key,
 * channel, chaincode. It prints one line of JSON for each of its steps, and ends with 1 when one fails.
 */
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const grpc = require('@grpc/grpc-js');
const { checkpointers, connect, hash, signers } = require('@hyperledger/fabric-gateway');
const { gateway: protos } = require('@hyperledger/fabric-protos');

const LIMIT_MS = 60_000;
const text = (bytes) => Buffer.from(bytes).toString();
const deadline = (ms = LIMIT_MS) => ({ deadline: Date.now() + ms });

/** Return what an application sees of an error. */
function seen(error) {
    return {
        error: error.name,
        code: error.code,
        message: error.message,
        details: error.details,
        transactionId: error.transactionId !== undefined,
    };
}

/** Return what a call that has to fail throws. */
async function failure(call) {
    try {
        await call();
    } catch (error) {
        return seen(error);
    }
    throw new Error('it did not fail');
}

/** Return the next so many items of a stream, and close it. */
async function take(stream, count, each = (item) => item) {
    const found = [];
    try {
        for await (const item of stream) {
            found.push(await each(item));
            if (found.length === count) {
                return found;
            }
        }
    } finally {
        stream.close();
    }
    throw new Error(`the stream ended after ${found.length} items`);
}

function event({ blockNumber, chaincodeName, eventName, payload }) {
    return { block: Number(blockNumber), chaincodeName, eventName, payload: JSON.parse(text(payload)) };
}

const STEPS = {
    async evaluate({ contract }) {
        return JSON.parse(text(await contract.evaluateTransaction('GetAllAssets')));
    },

    async submit({ contract }) {
        await contract.submitTransaction('InitLedger');
        return JSON.parse(text(await contract.evaluateTransaction('ReadAsset', 'asset1')));
    },

    async submitAsync({ contract }) {
        const commit = await contract.submitAsync('TransferAsset', { arguments: ['asset1', 'Ann'] });
        const oldOwner = text(commit.getResult());
        const { code, blockNumber, successful, transactionId } = await commit.getStatus();
        return {
            oldOwner,
            code,
            successful,
            block: Number(blockNumber),
            sameId: transactionId === commit.getTransactionId(),
        };
    },

    async transient({ contract }) {
        const proposal = { arguments: ['asset1'], transientData: { details: 'secret' } };
        await contract.submit('PutPrivateDetails', proposal);
        return text(await contract.evaluateTransaction('GetPrivateDetails', 'asset1'));
    },

    async eventsFromNowOn({ network, contract, chaincode }) {
        const events = await network.getChaincodeEvents(chaincode);
        await contract.submitTransaction('TransferAsset', 'asset2', 'Bob');
        return take(events, 1, event);
    },

    async eventsFromACheckpoint({ network, contract, chaincode }) {
        const checkpointer = checkpointers.inMemory();
        const first = await network.getChaincodeEvents(chaincode, { startBlock: 0n });
        const before = await take(first, 1, (item) => {
            checkpointer.checkpointChaincodeEvent(item);
            return event(item);
        });
        await contract.submitTransaction('TransferAsset', 'asset3', 'Cid');
        const second = await network.getChaincodeEvents(chaincode, { checkpoint: checkpointer });
        return { before, after: await take(second, 2, event) };
    },

    async blockEvents({ network }) {
        const number = (block) => Number(block.getHeader().getNumber());
        const whole = await take(await network.getBlockEvents({ startBlock: 0n }), 3, number);
        const filtered = await take(
            await network.getFilteredBlockEvents({ startBlock: 1n }),
            2,
            (block) => Number(block.getNumber()),
        );
        const privately = await take(
            await network.getBlockAndPrivateDataEvents({ startBlock: 1n }),
            2,
            (item) => number(item.getBlock()),
        );
        return { whole, filtered, privately };
    },

    async evaluateFails({ contract }) {
        return failure(() => contract.evaluateTransaction('ReadAsset', 'missing'));
    },

    async endorseFails({ contract }) {
        return failure(() => contract.submitTransaction('TransferAsset', 'missing', 'Ann'));
    },

    async organisationMissing({ contract }) {
        const proposal = { arguments: ['asset1', 'Dan'], endorsingOrganizations: ['Org7MSP'] };
        return failure(() => contract.submit('TransferAsset', proposal));
    },

    async chaincodeMissing({ network }) {
        return failure(() => network.getContract('nothing').evaluateTransaction('f'));
    },

    async channelMissing({ gateway, chaincode }) {
        const contract = gateway.getNetwork('nowhere').getContract(chaincode);
        return failure(() => contract.submitTransaction('put', 'k', 'v'));
    },

    async conflict({ contract }) {
        const transfer = (owner) => contract.newProposal('TransferAsset', { arguments: ['asset1', owner] });
        const [first, second] = await Promise.all(['Eve', 'Fay'].map((each) => transfer(each).endorse()));
        const commits = [await first.submit(), await second.submit()];
        const statuses = await Promise.all(commits.map((commit) => commit.getStatus()));
        return statuses.map(({ code, successful }) => ({ code, successful }));
    },

    async commitFails({ contract }) {
        const proposal = contract.newProposal('TransferAsset', { arguments: ['asset2', 'Gil'] });
        const stale = await proposal.endorse();
        await contract.submitTransaction('TransferAsset', 'asset2', 'Hal');
        const { code, successful } = await (await stale.submit()).getStatus();
        return { code, successful };
    },

    async strangerRefused({ client, settings }) {
        const pair = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
        const stranger = connect({
            client,
            identity: { mspId: settings.mspId, credentials: fs.readFileSync(settings.certificate) },
            signer: signers.newPrivateKeySigner(pair.privateKey),
        });
        const network = stranger.getNetwork(settings.channel);
        const contract = network.getContract(settings.chaincode);
        const refused = {
            evaluate: await failure(() => contract.evaluateTransaction('GetAllAssets')),
            events: await failure(async () =>
                take(await network.getChaincodeEvents(settings.chaincode), 1),
            ),
        };
        stranger.close();
        return refused;
    },

    async statusOfTheUnknown({ gateway, contract }) {
        const transaction = await contract.newProposal('put', { arguments: ['k', 'v'] }).endorse();
        const commit = await transaction.submit();
        await commit.getStatus();
        const signed = protos.SignedCommitStatusRequest.deserializeBinary(commit.getBytes());
        const request = protos.CommitStatusRequest.deserializeBinary(signed.getRequest_asU8());
        request.setTransactionId('0'.repeat(64));
        const unknown = new protos.SignedCommitStatusRequest();
        unknown.setRequest(request.serializeBinary());
        return failure(() => gateway.newCommit(unknown.serializeBinary()).getStatus(deadline(500)));
    },

    async manyAtOnce({ contract }) {
        const ids = Array.from({ length: 50 }, (_, index) => `many${index}`);
        await Promise.all(ids.map((id) => contract.submitTransaction('put', id, `value of ${id}`)));
        const values = await Promise.all(ids.map((id) => contract.evaluateTransaction('get', id)));
        return values.filter((value, index) => text(value) === `value of ${ids[index]}`).length;
    },
};

async function main() {
    const settings = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
    const client = new grpc.Client(
        settings.endpoint,
        grpc.credentials.createSsl(fs.readFileSync(settings.tlsRoot)),
    );
    const privateKey = crypto.createPrivateKey(fs.readFileSync(settings.key));
    const gateway = connect({
        client,
        identity: { mspId: settings.mspId, credentials: fs.readFileSync(settings.certificate) },
        signer: signers.newPrivateKeySigner(privateKey),
        hash: hash.sha256,
        evaluateOptions: () => deadline(),
        endorseOptions: () => deadline(),
        submitOptions: () => deadline(),
        commitStatusOptions: () => deadline(),
    });
    const network = gateway.getNetwork(settings.channel);
    const contract = network.getContract(settings.chaincode);
    const all = { client, gateway, network, contract, chaincode: settings.chaincode, settings };
    try {
        for (const [name, step] of Object.entries(STEPS)) {
            process.stdout.write(`${JSON.stringify({ step: name, result: await step(all) })}\n`);
        }
    } finally {
        gateway.close();
        client.close();
    }
}

main().catch((error) => {
    process.stderr.write(`${error.stack}\n${JSON.stringify(seen(error))}\n`);
    process.exitCode = 1;
});
