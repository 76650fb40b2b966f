'use strict';

// The behaviour of ../README.md on the official Node library.

const crypto = require('crypto');
const shim = require('fabric-shim');

// Number of records up to which a range is listed in full.
const LIST_LIMIT = 10;

// Each takes the stub, the parameters as text and the same parameters as bytes.
const functions = {
    noop: async () => '',
    put: async (stub, [key], [, value]) => stub.putState(key, value),
    get: async (stub, [key]) => stub.getState(key),
    gets: async (stub, [count, key]) => {
        let value;
        for (let i = 0; i < Number(count); i++) {
            value = await stub.getState(key);
        }
        return value;
    },
    del: async (stub, [key]) => stub.deleteState(key),

    fill: async (stub, [count]) => {
        for (let i = 0; i < Number(count); i++) {
            const digits = String(i).padStart(3, '0');
            await stub.putState(`k${digits}`, Buffer.from(`v${digits}`));
        }
        return count;
    },

    range: async (stub, [start, end]) => {
        const records = await collect(stub.getStateByRange(start, end));
        return JSON.stringify(
            records.length > LIST_LIMIT
                ? summarise(records)
                : records.map(({ key, value }) => [key, String(value)]),
        );
    },

    range_page: async (stub, [start, end, size, bookmark]) => {
        const page = stub.getStateByRangeWithPagination(start, end, Number(size), bookmark);
        const records = await collect(page);
        const { metadata } = await page;
        return JSON.stringify({
            ...summarise(records),
            fetched: metadata.fetchedRecordsCount,
            bookmark: metadata.bookmark,
        });
    },

    page_then_put: async (stub, [key], [, value]) => {
        const { iterator } = await stub.getStateByRangeWithPagination('', '', 1, '');
        await iterator.close();
        return stub.putState(key, value);
    },

    composite_put: async (stub, [type, a, b], [, , , value]) =>
        stub.putState(stub.createCompositeKey(type, [a, b]), value),

    composite_range: async (stub, [type, ...attributes]) => {
        const found = stub.getStateByPartialCompositeKey(type, attributes);
        const list = (await collect(found)).map(({ key, value }) => {
            const parts = stub.splitCompositeKey(key);
            return [parts.objectType, ...parts.attributes, String(value)];
        });
        return JSON.stringify(list);
    },

    history: async (stub, [key]) => {
        const list = [];
        for await (const entry of stub.getHistoryForKey(key)) {
            list.push([entry.txId, String(entry.value), entry.isDelete, instant(entry.timestamp)]);
        }
        return JSON.stringify(list);
    },

    event: async (stub, [name], [, payload]) => {
        await stub.putState(name, payload);
        stub.setEvent(name, payload);
    },

    big: async (stub, [size]) => {
        await stub.putState('big', Buffer.alloc(Number(size)).map((_, i) => i % 251));
        return size;
    },

    big_get: async (stub, [key]) => {
        const value = await stub.getState(key);
        return `${value.length} ${sha256(value)}`;
    },

    sleep: async (stub, [milliseconds]) => {
        await new Promise((resolve) => setTimeout(resolve, Number(milliseconds)));
        return milliseconds;
    },

    private_put: async (stub, [collection, key], [, , value]) =>
        stub.putPrivateData(collection, key, value),
    private_get: async (stub, [collection, key]) => stub.getPrivateData(collection, key),
    private_del: async (stub, [collection, key]) => stub.deletePrivateData(collection, key),
    private_hash: async (stub, [collection, key]) =>
        (await stub.getPrivateDataHash(collection, key)).toString('hex'),

    metadata_put: async (stub, [key], [, policy]) => stub.setStateValidationParameter(key, policy),
    metadata_get: async (stub, [key]) => stub.getStateValidationParameter(key),

    creator: async (stub) => {
        const { mspid, idBytes } = stub.getCreator();
        return `${mspid} ${sha256(idBytes)}`;
    },
    transient: async (stub, [name]) => stub.getTransient().get(name),
    txid: async (stub) => stub.getTxID(),
    channel: async (stub) => stub.getChannelID(),
    timestamp: async (stub) => instant(stub.getTxTimestamp()),
    args: async (stub) => JSON.stringify(stub.getBufferArgs().map((arg) => arg.toString('hex'))),

    call: async (stub, [name, channel], [, , ...args]) => {
        let response;
        try {
            response = await stub.invokeChaincode(name, args, channel);
        } catch (error) { // the library throws where the peer answered ERROR
            response = { status: 500, message: error.message };
        }
        if (response.status >= 400) {
            throw new Error(`call returned ${response.status}: ${response.message}`);
        }
        return response.payload;
    },
};

async function collect(results) {
    const records = [];
    for await (const record of results) {
        records.push(record);
    }
    return records;
}

function summarise(records) {
    const first = records.length ? records[0].key : '';
    const last = records.length ? records[records.length - 1].key : '';
    return { count: records.length, first, last };
}

function sha256(bytes) {
    return crypto.createHash('sha256').update(bytes).digest('hex');
}

function instant({ seconds, nanos }) {
    return `${seconds}.${String(nanos).padStart(9, '0')}`;
}

function fail([text, status = 500]) {
    return { status: Number(status), message: text, payload: Buffer.alloc(0) };
}

async function respond(answer) {
    try {
        return shim.success(Buffer.from((await answer) ?? ''));
    } catch (error) {
        return shim.error(error.message);
    }
}

class Behaviour {
    async Init(stub) {
        const { fcn: name, params } = stub.getFunctionAndParameters();
        if (name === 'fail') {
            return fail(params);
        }
        return respond(stub.putState('init', JSON.stringify(stub.getStringArgs())));
    }

    async Invoke(stub) {
        const { fcn: name, params } = stub.getFunctionAndParameters();
        switch (name) {
            case 'fail':
                return fail(params);
            case 'throw':
                throw new Error(params[0]);
        }
        if (!Object.hasOwn(functions, name)) {
            return shim.error(`unknown function: ${name}`);
        }
        return respond(functions[name](stub, params, stub.getBufferArgs().slice(1)));
    }
}

const address = process.env.CHAINCODE_SERVER_ADDRESS;
if (address) {
    const ccid = process.env.CORE_CHAINCODE_ID_NAME;
    const options = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 };
    shim.server(new Behaviour(), { ccid, address, ...options }).start();
} else {
    shim.start(new Behaviour());
}
