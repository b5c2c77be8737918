// A compiled student in, text tokens out: the order of calls of contract.json, to be pasted into an app.
//
// Written against iOS 18 and macOS 15 (Core ML with states and functions). Not compiled and not run by this project: it
// has no Mac. Tokenizer and chat template stand in the package's Data/limbeck folder; any Hugging Face tokenizer for
// Swift reads them. Embedding rows come from weight.bin, at the place that contract.json names (float16 rows here; for
// compressed rows multiply (code - offset) by the scale of its block).

import CoreML
import Foundation

struct Contract: Decodable {
    struct Slots: Decodable { let layers: [Int]; let rank: Int; let targets: [String] }
    struct Function: Decodable { let inputs: [String: [Int]]; let outputs: [String: [Int]] }
    let context: Int
    let prefill_positions: Int
    let cache: String
    let width: Int
    let vocabulary: Int
    let embedding_scale: Float
    let rotation: [String: [Float]]
    let rotation_scale: Float
    let masked: Float
    let adapter: Slots?
    let functions: [String: Function]
}

final class Student {
    private let contract: Contract
    private let prefill: MLModel
    private let decode: MLModel
    private let state: MLState
    private let embed: (Int) -> [Float16]
    private var position = 0
    /// Inputs `q_proj_a`, `q_proj_b`, …; zeros where no adapter is used. A new adapter replaces them, nothing is rebuilt.
    var adapter: [String: MLMultiArray] = [:]

    /// - Parameter embed: The row of a token, read from weight.bin at the place that the contract names.
    init(compiled: URL, contract: Contract, embed: @escaping (Int) -> [Float16]) throws {
        precondition(contract.cache == "state", "this file is for --cache state")
        self.contract = contract
        self.embed = embed
        func load(_ name: String) throws -> MLModel {
            let configuration = MLModelConfiguration()
            configuration.computeUnits = .cpuAndNeuralEngine
            configuration.functionName = name
            return try MLModel(contentsOf: compiled, configuration: configuration)
        }
        prefill = try load("prefill")
        decode = try load("decode")
        state = decode.makeState()
        for (name, size) in contract.functions["decode"]!.inputs where name.hasSuffix("_a") || name.hasSuffix("_b") {
            adapter[name] = try Student.zeros(size)
        }
    }

    /// Take tokens in; the logits after the last of them.
    func read(_ tokens: [Int]) throws -> [Float] {
        precondition(position + tokens.count <= contract.context, "the cache is full")
        var logits: [Float] = []
        var rest = tokens[...]
        while !rest.isEmpty {
            let count = rest.count == 1 ? 1 : min(contract.prefill_positions, rest.count)
            logits = try call(count == 1 ? "decode" : "prefill", Array(rest.prefix(count)))
            rest = rest.dropFirst(count)
        }
        return logits
    }

    private func call(_ name: String, _ tokens: [Int]) throws -> [Float] {
        let sizes = contract.functions[name]!.inputs
        let positions = sizes["hidden"]![3]
        var arrays = adapter
        let hidden = try Student.zeros(sizes["hidden"]!)
        for (column, token) in tokens.enumerated() {
            for (channel, value) in embed(token).enumerated() {
                Student.put(hidden, [0, channel, 0, column], Float(value) * contract.embedding_scale)
            }
        }
        arrays["hidden"] = hidden
        let cosine = try Student.zeros(sizes["cosine"]!), sine = try Student.zeros(sizes["sine"]!)
        let frequencies = contract.rotation["global"]!
        for column in 0..<positions {
            for row in 0..<(2 * frequencies.count) {
                let angle = Float(position + column) * frequencies[row % frequencies.count]
                Student.put(cosine, [0, 0, row, column], cos(angle) * contract.rotation_scale)
                Student.put(sine, [0, 0, row, column], sin(angle) * contract.rotation_scale)
            }
        }
        arrays["cosine"] = cosine
        arrays["sine"] = sine
        let mask = try Student.zeros(sizes["mask"]!), write = try Student.zeros(sizes["write"]!)
        for row in 0..<positions {
            for column in 0..<contract.context where column > position + row {
                Student.put(mask, [0, 0, row, column], contract.masked)
            }
            if row < tokens.count { Student.put(write, [0, 0, row, position + row], 1) }
        }
        arrays["mask"] = mask
        arrays["write"] = write
        if let size = sizes["select"] {
            let select = try Student.zeros(size)
            Student.put(select, [0, 0, tokens.count - 1, 0], 1)
            arrays["select"] = select
        }
        let features = try MLDictionaryFeatureProvider(dictionary: arrays.mapValues { MLFeatureValue(multiArray: $0) })
        let output = try (name == "decode" ? decode : prefill).prediction(from: features, using: state)
        position += tokens.count
        return contract.functions[name]!.outputs.keys.filter { $0.hasPrefix("logits_") }
            .sorted { Int($0.dropFirst(7))! < Int($1.dropFirst(7))! }
            .flatMap { key -> [Float] in
                let chunk = output.featureValue(for: key)!.multiArrayValue!
                return (0..<chunk.count).map { chunk[[0, $0 as NSNumber, 0, 0]].floatValue }
            }
    }

    private static func zeros(_ size: [Int]) throws -> MLMultiArray {
        let array = try MLMultiArray(shape: size.map { $0 as NSNumber }, dataType: .float16)
        array.withUnsafeMutableBytes { bytes, _ in bytes.initializeMemory(as: UInt8.self, repeating: 0) }
        return array
    }

    private static func put(_ array: MLMultiArray, _ at: [Int], _ value: Float) {
        array[at.map { $0 as NSNumber }] = value as NSNumber
    }
}
