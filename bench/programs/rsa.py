"""Signs with a 2048-bit RSA key and verifies, by libcrypto; in one process, so that the
arithmetic is what counts. usage: rsa.py ROUNDS KEY"""
import ctypes
import sys

crypto = ctypes.CDLL('libcrypto.so.3')
for name in ('BIO_new_file', 'PEM_read_bio_PrivateKey', 'EVP_PKEY_CTX_new', 'EVP_sha256'):
    getattr(crypto, name).restype = ctypes.c_void_p
ADDRESS = ctypes.c_void_p


def check(result, what):
    if not result or result < 0:
        sys.exit(f'rsa: {what} failed')
    return result


def context_of(key, prepare):
    context = ADDRESS(check(crypto.EVP_PKEY_CTX_new(key, None), 'EVP_PKEY_CTX_new'))
    check(prepare(context), 'EVP_PKEY_..._init')
    check(crypto.EVP_PKEY_CTX_set_rsa_padding(context, 1), 'PKCS1 padding')
    check(crypto.EVP_PKEY_CTX_set_signature_md(context, ADDRESS(crypto.EVP_sha256())), 'SHA-256')
    return context


def main(rounds, path):
    file = ADDRESS(check(crypto.BIO_new_file(path.encode(), b'r'), path))
    key = ADDRESS(check(crypto.PEM_read_bio_PrivateKey(file, None, None, None), path))
    signer = context_of(key, crypto.EVP_PKEY_sign_init)
    verifier = context_of(key, crypto.EVP_PKEY_verify_init)
    signature = ctypes.create_string_buffer(256)
    total = 0
    for number in range(rounds):
        digest = number.to_bytes(32, 'little')
        length = ctypes.c_size_t(256)
        check(crypto.EVP_PKEY_sign(signer, signature, ctypes.byref(length), digest,
                                   ctypes.c_size_t(32)), 'signing')
        check(crypto.EVP_PKEY_verify(verifier, signature, length, digest, ctypes.c_size_t(32)),
              'verifying')
        total = total * 31 + int.from_bytes(signature.raw, 'big') & (1 << 64) - 1
    print(f'{total:016x}')


main(int(sys.argv[1]), sys.argv[2])
